"""The grid: every state, every event, every value of the guards, and what must follow. Frozen, by hand.

A row reads: event | case | where it leads | actions, in order | is it journalled

`illegal` stands where a pair has no place: the state stays. `-` is no action. Braces hold actions whose order
is left open. `?` is left open as well: nobody promised whether such a step is written.
The cases are spelled out in `situations.py`. Nothing here is computed from the code that it judges.
"""

from hubstate.states import State

__all__ = ["GRID"]

IDLE = """
pretrain_routine_start | plain                        | session_created | OpenSession                            | yes
pretrain_routine_start | journal without hub          | session_created | OpenSession                            | yes
pretrain_routine_start | later attempt                | session_created | OpenSession                            | yes
pretrain_routine_start | not wanted                   | idle            | -                                      | no
pretrain_routine_start | not the main process         | idle            | -                                      | no
pretrain_routine_start | one is open                  | idle            | -                                      | no
pretrain_routine_end   | plain                        | idle            | -                                      | no
pretrain_routine_end   | later attempt                | idle            | -                                      | no
train_start            | plain                        | idle            | -                                      | no
train_start            | later attempt                | idle            | -                                      | no
fit_epoch_end          | plain                        | idle            | -                                      | no
fit_epoch_end          | later attempt                | idle            | -                                      | no
train_batch_end        | plain                        | idle            | -                                      | no
train_batch_end        | later attempt                | idle            | -                                      | no
model_save             | plain                        | idle            | -                                      | no
model_save             | later attempt                | idle            | -                                      | no
train_end              | plain                        | idle            | -                                      | no
train_end              | later attempt                | idle            | -                                      | no
abort                  | plain                        | idle            | -                                      | no
abort                  | later attempt                | idle            | -                                      | no
val_start              | usage off                    | idle            | -                                      | no
val_start              | usage on                     | idle            | RecordUsage                            | ?
predict_start          | usage off                    | idle            | -                                      | no
predict_start          | usage on                     | idle            | RecordUsage                            | ?
export_start           | usage off                    | idle            | -                                      | no
export_start           | usage on                     | idle            | RecordUsage                            | ?
give_up                | plain                        | illegal         | -                                      | ?
give_up                | some refused                 | illegal         | -                                      | ?
retry_refused          | plain                        | illegal         | -                                      | ?
retry_refused          | some refused                 | illegal         | -                                      | ?
tick                   | plain                        | idle            | -                                      | no
tick                   | both due                     | idle            | -                                      | no
heartbeat_tick         | plain                        | idle            | -                                      | no
heartbeat_tick         | beat due                     | idle            | -                                      | no
delivered              | its key, later attempt       | idle            | -                                      | ?
refused                | its key, later attempt       | idle            | -                                      | ?
held_up                | its key, later attempt       | idle            | -                                      | ?
answered               | later attempt                | idle            | -                                      | ?
stop_requested         | later attempt                | idle            | -                                      | ?
"""

SESSION_CREATED = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | timing          | -                                      | yes
train_start            | plain                        | illegal         | -                                      | yes
fit_epoch_end          | interval over                | illegal         | -                                      | yes
train_batch_end        | interval over                | illegal         | -                                      | yes
model_save             | better, file due             | illegal         | -                                      | yes
train_end              | rows wait                    | illegal         | -                                      | yes
abort                  | plain                        | aborted         | EndSession                             | yes
abort                  | interrupted                  | aborted         | EndSession                             | yes
abort                  | rows wait                    | aborted         | SendRows, EndSession                   | yes
abort                  | one kept                     | aborted         | SendCheckpoint, EndSession             | yes
abort                  | rows wait, one kept          | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | usage off                    | session_created | -                                      | ?
val_start              | usage on                     | session_created | RecordUsage                            | yes
predict_start          | usage off                    | session_created | -                                      | ?
predict_start          | usage on                     | session_created | RecordUsage                            | yes
export_start           | usage off                    | session_created | -                                      | ?
export_start           | usage on                     | session_created | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | session_created | SendRows                               | yes
retry_refused          | two refused                  | session_created | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | session_created | -                                      | ?
tick                   | plain                        | session_created | -                                      | no
tick                   | both due                     | session_created | -                                      | no
heartbeat_tick         | beat due                     | session_created | Heartbeat                              | no
heartbeat_tick         | never beaten                 | session_created | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | session_created | -                                      | no
heartbeat_tick         | beat clock ahead             | session_created | -                                      | no
heartbeat_tick         | beat due, one out            | session_created | -                                      | no
heartbeat_tick         | beat due, no hub             | session_created | -                                      | no
heartbeat_tick         | never beaten, no hub         | session_created | -                                      | no
delivered              | its key                      | session_created | -                                      | yes
delivered              | a heartbeat                  | session_created | -                                      | ?
delivered              | nobody's key                 | session_created | -                                      | ?
refused                | its key                      | session_created | -                                      | yes
held_up                | its key                      | session_created | -                                      | yes
held_up                | 429                          | session_created | -                                      | yes
held_up                | 401                          | session_created | -                                      | yes
answered               | plain                        | session_created | -                                      | yes
stop_requested         | plain                        | session_created | -                                      | yes
"""

TIMING = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | illegal         | -                                      | yes
train_start            | plain                        | training        | -                                      | yes
train_start            | both due                     | training        | -                                      | yes
fit_epoch_end          | interval over                | illegal         | -                                      | yes
train_batch_end        | interval over                | illegal         | -                                      | yes
model_save             | better, file due             | illegal         | -                                      | yes
train_end              | rows wait                    | illegal         | -                                      | yes
abort                  | plain                        | aborted         | EndSession                             | yes
abort                  | interrupted                  | aborted         | EndSession                             | yes
abort                  | rows wait                    | aborted         | SendRows, EndSession                   | yes
abort                  | one kept                     | aborted         | SendCheckpoint, EndSession             | yes
abort                  | rows wait, one kept          | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | usage off                    | timing          | -                                      | ?
val_start              | usage on                     | timing          | RecordUsage                            | yes
predict_start          | usage off                    | timing          | -                                      | ?
predict_start          | usage on                     | timing          | RecordUsage                            | yes
export_start           | usage off                    | timing          | -                                      | ?
export_start           | usage on                     | timing          | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | timing          | SendRows                               | yes
retry_refused          | two refused                  | timing          | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | timing          | -                                      | ?
tick                   | plain                        | timing          | -                                      | no
tick                   | both due                     | timing          | -                                      | no
heartbeat_tick         | beat due                     | timing          | Heartbeat                              | no
heartbeat_tick         | never beaten                 | timing          | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | timing          | -                                      | no
heartbeat_tick         | beat clock ahead             | timing          | -                                      | no
heartbeat_tick         | beat due, one out            | timing          | -                                      | no
heartbeat_tick         | beat due, no hub             | timing          | -                                      | no
heartbeat_tick         | never beaten, no hub         | timing          | -                                      | no
delivered              | its key                      | timing          | -                                      | yes
delivered              | a heartbeat                  | timing          | -                                      | ?
delivered              | nobody's key                 | timing          | -                                      | ?
refused                | its key                      | timing          | -                                      | yes
held_up                | its key                      | timing          | -                                      | yes
held_up                | 429                          | timing          | -                                      | yes
held_up                | 401                          | timing          | -                                      | yes
answered               | plain                        | timing          | -                                      | yes
stop_requested         | plain                        | timing          | -                                      | yes
"""

TRAINING = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | illegal         | -                                      | yes
train_start            | plain                        | illegal         | -                                      | yes
fit_epoch_end          | interval over                | training        | SendRows                               | yes
fit_epoch_end          | interval over, rows wait     | training        | SendRows                               | yes
fit_epoch_end          | interval over, final         | training        | SendRows                               | yes
fit_epoch_end          | interval over, open out      | training        | SendRows                               | yes
fit_epoch_end          | interval over, file out      | training        | SendRows                               | yes
fit_epoch_end          | interval over, file due      | training        | SendRows                               | yes
fit_epoch_end          | interval over, rows out      | training        | -                                      | yes
fit_epoch_end          | interval not over            | training        | -                                      | yes
fit_epoch_end          | interval not over, file due  | training        | -                                      | yes
fit_epoch_end          | clock ahead                  | training        | -                                      | yes
train_batch_end        | interval over                | training        | SendRows                               | yes
train_batch_end        | interval over, rows wait     | training        | SendRows                               | yes
train_batch_end        | interval over, open out      | training        | SendRows                               | yes
train_batch_end        | interval over, file out      | training        | SendRows                               | yes
train_batch_end        | interval over, file due      | training        | SendRows                               | yes
train_batch_end        | interval over, rows out      | training        | -                                      | yes
train_batch_end        | interval not over            | training        | -                                      | yes
train_batch_end        | interval not over, file due  | training        | -                                      | yes
train_batch_end        | clock ahead                  | training        | -                                      | yes
model_save             | better                       | training        | KeepCheckpoint                         | yes
model_save             | first fitness                | training        | KeepCheckpoint                         | yes
model_save             | equal                        | training        | -                                      | yes
model_save             | worse                        | training        | -                                      | yes
model_save             | no fitness                   | training        | -                                      | yes
model_save             | none kept                    | training        | KeepCheckpoint                         | yes
model_save             | none kept, worse             | training        | KeepCheckpoint                         | yes
model_save             | none kept, file due          | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | none kept, file out          | training        | KeepCheckpoint                         | yes
model_save             | none kept, choice last       | training        | KeepCheckpoint                         | yes
model_save             | none kept, choice none       | training        | -                                      | yes
model_save             | keep interval over           | training        | KeepCheckpoint                         | yes
model_save             | keep interval over, worse    | training        | KeepCheckpoint                         | yes
model_save             | keep interval over, file due | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | keep interval not over       | training        | -                                      | yes
model_save             | kept ahead of the clock      | training        | -                                      | yes
model_save             | better, file due             | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | better, file due, rows out   | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | better, file not yet         | training        | KeepCheckpoint                         | yes
model_save             | better, file out             | training        | KeepCheckpoint                         | yes
model_save             | better, file clock ahead     | training        | KeepCheckpoint                         | yes
model_save             | better, rows due             | training        | KeepCheckpoint                         | yes
model_save             | better, choice best          | training        | KeepCheckpoint                         | yes
model_save             | better, choice none          | training        | -                                      | yes
model_save             | better, torn                 | training        | -                                      | yes
model_save             | worse, file due and waits    | training        | -                                      | yes
train_end              | plain                        | finalizing      | CloseSession                           | yes
train_end              | stopped                      | finalizing      | CloseSession                           | yes
train_end              | rows wait                    | finalizing      | SendRows, CloseSession                 | yes
train_end              | rows wait, rows out          | finalizing      | SendRows, CloseSession                 | yes
train_end              | one kept                     | finalizing      | SendCheckpoint, CloseSession           | yes
train_end              | one kept, file out           | finalizing      | SendCheckpoint, CloseSession           | yes
train_end              | kept and asked               | finalizing      | SendCheckpoint, CloseSession           | yes
train_end              | best kept                    | finalizing      | SendCheckpoint, CloseSession           | yes
train_end              | final named                  | finalizing      | SendCheckpoint, CloseSession           | yes
train_end              | final named, choice none     | finalizing      | CloseSession                           | yes
train_end              | final named, rows wait       | finalizing      | SendRows, SendCheckpoint, CloseSession | yes
train_end              | rows wait, one kept          | finalizing      | SendRows, SendCheckpoint, CloseSession | yes
abort                  | plain                        | aborted         | EndSession                             | yes
abort                  | interrupted                  | aborted         | EndSession                             | yes
abort                  | rows wait                    | aborted         | SendRows, EndSession                   | yes
abort                  | rows wait, rows out          | aborted         | SendRows, EndSession                   | yes
abort                  | one kept                     | aborted         | SendCheckpoint, EndSession             | yes
abort                  | one kept, file out           | aborted         | SendCheckpoint, EndSession             | yes
abort                  | best kept                    | aborted         | SendCheckpoint, EndSession             | yes
abort                  | rows wait, one kept          | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | usage off                    | training        | -                                      | ?
val_start              | usage on                     | training        | RecordUsage                            | yes
predict_start          | usage off                    | training        | -                                      | ?
predict_start          | usage on                     | training        | RecordUsage                            | yes
export_start           | usage off                    | training        | -                                      | ?
export_start           | usage on                     | training        | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | training        | SendRows                               | yes
retry_refused          | two refused                  | training        | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | training        | -                                      | ?
tick                   | plain                        | training        | -                                      | no
tick                   | nothing waits                | training        | -                                      | no
tick                   | rows due                     | training        | SendRows                               | yes
tick                   | rows due, file out           | training        | SendRows                               | yes
tick                   | rows due, rows out           | training        | -                                      | no
tick                   | rows not yet                 | training        | -                                      | no
tick                   | rows wait, clock ahead       | training        | -                                      | no
tick                   | file due                     | training        | SendCheckpoint                         | yes
tick                   | best due                     | training        | SendCheckpoint                         | yes
tick                   | file due, rows out           | training        | SendCheckpoint                         | yes
tick                   | file due, file out           | training        | -                                      | no
tick                   | file not yet                 | training        | -                                      | no
tick                   | file waits, clock ahead      | training        | -                                      | no
tick                   | both due                     | training        | {SendRows, SendCheckpoint}             | yes
tick                   | both wait                    | training        | -                                      | no
tick                   | both wait, rows due          | training        | SendRows                               | yes
tick                   | both wait, file due          | training        | SendCheckpoint                         | yes
tick                   | both due, rows out           | training        | SendCheckpoint                         | yes
tick                   | both due, file out           | training        | SendRows                               | yes
tick                   | both due, both out           | training        | -                                      | no
heartbeat_tick         | beat due                     | training        | Heartbeat                              | no
heartbeat_tick         | never beaten                 | training        | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | training        | -                                      | no
heartbeat_tick         | beat clock ahead             | training        | -                                      | no
heartbeat_tick         | beat due, one out            | training        | -                                      | no
heartbeat_tick         | beat due, no hub             | training        | -                                      | no
heartbeat_tick         | never beaten, no hub         | training        | -                                      | no
delivered              | its key                      | training        | -                                      | yes
delivered              | a heartbeat                  | training        | -                                      | ?
delivered              | nobody's key                 | training        | -                                      | ?
refused                | its key                      | training        | -                                      | yes
held_up                | its key                      | training        | -                                      | yes
held_up                | 429                          | training        | -                                      | yes
held_up                | 401                          | training        | -                                      | yes
answered               | plain                        | training        | -                                      | yes
stop_requested         | plain                        | training        | -                                      | yes
"""

FINALIZING = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | illegal         | -                                      | yes
train_start            | plain                        | illegal         | -                                      | yes
fit_epoch_end          | interval over                | illegal         | -                                      | yes
train_batch_end        | interval over                | illegal         | -                                      | yes
model_save             | better, file due             | illegal         | -                                      | yes
train_end              | plain                        | illegal         | -                                      | yes
abort                  | plain                        | illegal         | -                                      | yes
abort                  | interrupted                  | illegal         | -                                      | yes
val_start              | usage off                    | finalizing      | -                                      | ?
val_start              | usage on                     | finalizing      | RecordUsage                            | yes
predict_start          | usage off                    | finalizing      | -                                      | ?
predict_start          | usage on                     | finalizing      | RecordUsage                            | yes
export_start           | usage off                    | finalizing      | -                                      | ?
export_start           | usage on                     | finalizing      | RecordUsage                            | yes
give_up                | plain                        | aborted         | EndSession                             | yes
give_up                | some refused                 | aborted         | EndSession                             | yes
retry_refused          | some refused                 | finalizing      | SendRows                               | yes
retry_refused          | two refused                  | finalizing      | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | finalizing      | -                                      | ?
tick                   | plain                        | finalizing      | -                                      | no
tick                   | both due                     | finalizing      | -                                      | no
heartbeat_tick         | beat due                     | finalizing      | Heartbeat                              | no
heartbeat_tick         | never beaten                 | finalizing      | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | finalizing      | -                                      | no
heartbeat_tick         | beat clock ahead             | finalizing      | -                                      | no
heartbeat_tick         | beat due, one out            | finalizing      | -                                      | no
heartbeat_tick         | beat due, no hub             | finalizing      | -                                      | no
heartbeat_tick         | never beaten, no hub         | finalizing      | -                                      | no
delivered              | the close, nothing else      | done            | -                                      | yes
delivered              | the close, a heartbeat out   | done            | -                                      | yes
delivered              | the close, rows out          | finalizing      | -                                      | yes
delivered              | the close, a file out        | finalizing      | -                                      | yes
delivered              | the close, one refused       | finalizing      | -                                      | yes
delivered              | rows, the close out          | finalizing      | -                                      | yes
delivered              | rows, nothing else           | done            | -                                      | yes
delivered              | a file, nothing else         | done            | -                                      | yes
delivered              | not taken, nothing else      | done            | -                                      | yes
delivered              | a heartbeat                  | finalizing      | -                                      | ?
delivered              | nobody's key                 | finalizing      | -                                      | ?
refused                | its key                      | finalizing      | -                                      | yes
refused                | the close                    | finalizing      | -                                      | yes
held_up                | its key                      | finalizing      | -                                      | yes
held_up                | 429                          | finalizing      | -                                      | yes
held_up                | 401                          | finalizing      | -                                      | yes
answered               | plain                        | finalizing      | -                                      | yes
stop_requested         | plain                        | finalizing      | -                                      | yes
"""

DONE = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | illegal         | -                                      | yes
train_start            | plain                        | illegal         | -                                      | yes
fit_epoch_end          | interval over                | illegal         | -                                      | yes
train_batch_end        | interval over                | illegal         | -                                      | yes
model_save             | better, file due             | illegal         | -                                      | yes
train_end              | plain                        | illegal         | -                                      | yes
abort                  | plain                        | illegal         | -                                      | yes
val_start              | usage off                    | done            | -                                      | ?
val_start              | usage on                     | done            | RecordUsage                            | yes
predict_start          | usage off                    | done            | -                                      | ?
predict_start          | usage on                     | done            | RecordUsage                            | yes
export_start           | usage off                    | done            | -                                      | ?
export_start           | usage on                     | done            | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
retry_refused          | plain                        | done            | -                                      | ?
tick                   | plain                        | done            | -                                      | no
tick                   | both due                     | done            | -                                      | no
heartbeat_tick         | beat due                     | done            | -                                      | no
heartbeat_tick         | never beaten                 | done            | -                                      | no
delivered              | nobody's key                 | done            | -                                      | ?
delivered              | a heartbeat                  | done            | -                                      | ?
refused                | nobody's key                 | done            | -                                      | ?
held_up                | plain                        | done            | -                                      | ?
answered               | plain                        | done            | -                                      | yes
stop_requested         | plain                        | done            | -                                      | yes
"""

ABORTED = """
pretrain_routine_start | plain                        | illegal         | -                                      | yes
pretrain_routine_end   | plain                        | illegal         | -                                      | yes
train_start            | plain                        | illegal         | -                                      | yes
fit_epoch_end          | interval over                | illegal         | -                                      | yes
train_batch_end        | interval over                | illegal         | -                                      | yes
model_save             | better, file due             | illegal         | -                                      | yes
train_end              | plain                        | illegal         | -                                      | yes
abort                  | plain                        | illegal         | -                                      | yes
val_start              | usage off                    | aborted         | -                                      | ?
val_start              | usage on                     | aborted         | RecordUsage                            | yes
predict_start          | usage off                    | aborted         | -                                      | ?
predict_start          | usage on                     | aborted         | RecordUsage                            | yes
export_start           | usage off                    | aborted         | -                                      | ?
export_start           | usage on                     | aborted         | RecordUsage                            | yes
give_up                | something waits              | aborted         | -                                      | yes
give_up                | some refused                 | aborted         | -                                      | yes
give_up                | plain                        | aborted         | -                                      | ?
retry_refused          | some refused                 | aborted         | SendRows                               | yes
retry_refused          | two refused                  | aborted         | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | aborted         | -                                      | ?
tick                   | plain                        | aborted         | -                                      | no
tick                   | both due                     | aborted         | -                                      | no
heartbeat_tick         | beat due                     | aborted         | -                                      | no
heartbeat_tick         | never beaten                 | aborted         | -                                      | no
delivered              | its key                      | aborted         | -                                      | yes
delivered              | rows, nothing else           | aborted         | -                                      | yes
delivered              | the end, nothing else        | aborted         | -                                      | yes
delivered              | the close, nothing else      | aborted         | -                                      | yes
delivered              | a heartbeat                  | aborted         | -                                      | ?
delivered              | nobody's key                 | aborted         | -                                      | ?
refused                | its key                      | aborted         | -                                      | yes
held_up                | its key                      | aborted         | -                                      | yes
held_up                | 429                          | aborted         | -                                      | yes
held_up                | 401                          | aborted         | -                                      | yes
answered               | plain                        | aborted         | -                                      | yes
stop_requested         | plain                        | aborted         | -                                      | yes
"""

GRID = {
    State.IDLE: IDLE,
    State.SESSION_CREATED: SESSION_CREATED,
    State.TIMING: TIMING,
    State.TRAINING: TRAINING,
    State.FINALIZING: FINALIZING,
    State.DONE: DONE,
    State.ABORTED: ABORTED,
}
