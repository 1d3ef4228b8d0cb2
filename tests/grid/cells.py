"""The grid: every state, every event, every value of the guards, and what must follow. Frozen, by hand.

A row reads: event | case | where it leads | actions, in order | is it journalled

`illegal` stands where a pair has no place: the state stays. `-` is no action; `held` is none either, for the event
is held back, with a reason.
The cases are spelled out in `situations.py`. Nothing here is computed from the code that it judges.
"""

from hubstate.states import State

__all__ = ["GRID"]

IDLE = """
pretrain_routine_start | plain                        | session_created | OpenSession                            | yes
pretrain_routine_start | journal without hub          | session_created | OpenSession                            | yes
pretrain_routine_start | later attempt                | session_created | OpenSession                            | yes
pretrain_routine_start | not wanted                   | idle            | held                                   | no
pretrain_routine_start | not the main process         | idle            | held                                   | no
pretrain_routine_start | one is open                  | idle            | held                                   | no
pretrain_routine_end   | plain                        | idle            | held                                   | no
pretrain_routine_end   | later attempt                | idle            | held                                   | no
train_start            | plain                        | idle            | held                                   | no
train_start            | later attempt                | idle            | held                                   | no
fit_epoch_end          | plain                        | idle            | held                                   | no
fit_epoch_end          | later attempt                | idle            | held                                   | no
train_batch_end        | plain                        | idle            | held                                   | no
train_batch_end        | later attempt                | idle            | held                                   | no
model_save             | plain                        | idle            | held                                   | no
model_save             | later attempt                | idle            | held                                   | no
train_end              | plain                        | idle            | held                                   | no
train_end              | later attempt                | idle            | held                                   | no
abort                  | plain                        | idle            | held                                   | no
abort                  | later attempt                | idle            | held                                   | no
val_start              | usage off                    | idle            | held                                   | no
val_start              | usage on                     | idle            | RecordUsage                            | yes
predict_start          | usage off                    | idle            | held                                   | no
predict_start          | usage on                     | idle            | RecordUsage                            | yes
export_start           | usage off                    | idle            | held                                   | no
export_start           | usage on                     | idle            | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | plain                        | illegal         | -                                      | yes
retry_refused          | some refused                 | illegal         | -                                      | yes
tick                   | plain                        | idle            | held                                   | no
tick                   | both due                     | idle            | held                                   | no
heartbeat_tick         | plain                        | idle            | held                                   | no
heartbeat_tick         | beat due                     | idle            | held                                   | no
delivered              | its key, later attempt       | idle            | -                                      | yes
refused                | its key, later attempt       | idle            | -                                      | yes
held_up                | its key, later attempt       | idle            | -                                      | yes
answered               | later attempt                | idle            | -                                      | yes
stop_requested         | later attempt                | idle            | -                                      | yes
pretrain_routine_start | plenty, later attempt        | session_created | OpenSession                            | yes
pretrain_routine_end   | plenty, later attempt        | idle            | held                                   | no
train_start            | plenty, later attempt        | idle            | held                                   | no
fit_epoch_end          | plenty, later attempt        | idle            | held                                   | no
train_batch_end        | plenty, later attempt        | idle            | held                                   | no
model_save             | plenty, later attempt        | idle            | held                                   | no
train_end              | plenty, later attempt        | idle            | held                                   | no
abort                  | plenty, later attempt        | idle            | held                                   | no
val_start              | plenty, later attempt        | idle            | held                                   | no
predict_start          | plenty, later attempt        | idle            | held                                   | no
export_start           | plenty, later attempt        | idle            | held                                   | no
tick                   | plenty, later attempt        | idle            | held                                   | no
heartbeat_tick         | plenty, later attempt        | idle            | held                                   | no
delivered              | plenty, later attempt        | idle            | -                                      | yes
refused                | plenty, later attempt        | idle            | -                                      | yes
held_up                | plenty, later attempt        | idle            | -                                      | yes
answered               | plenty, later attempt        | idle            | -                                      | yes
stop_requested         | plenty, later attempt        | idle            | -                                      | yes
val_start              | plenty, usage, later attempt | idle            | RecordUsage                            | yes
predict_start          | plenty, usage, later attempt | idle            | RecordUsage                            | yes
export_start           | plenty, usage, later attempt | idle            | RecordUsage                            | yes
delivered              | plain                        | idle            | -                                      | yes
refused                | plain                        | idle            | -                                      | yes
held_up                | plain                        | idle            | -                                      | yes
answered               | plain                        | idle            | -                                      | yes
stop_requested         | plain                        | idle            | -                                      | yes
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
val_start              | usage off                    | session_created | held                                   | no
val_start              | usage on                     | session_created | RecordUsage                            | yes
predict_start          | usage off                    | session_created | held                                   | no
predict_start          | usage on                     | session_created | RecordUsage                            | yes
export_start           | usage off                    | session_created | held                                   | no
export_start           | usage on                     | session_created | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | session_created | SendRows                               | yes
retry_refused          | two refused                  | session_created | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | session_created | held                                   | no
tick                   | plain                        | session_created | held                                   | no
tick                   | both due                     | session_created | held                                   | no
heartbeat_tick         | beat due                     | session_created | Heartbeat                              | no
heartbeat_tick         | never beaten                 | session_created | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | session_created | held                                   | no
heartbeat_tick         | beat clock ahead             | session_created | held                                   | no
heartbeat_tick         | beat due, one out            | session_created | held                                   | no
heartbeat_tick         | beat due, no hub             | session_created | held                                   | no
heartbeat_tick         | never beaten, no hub         | session_created | held                                   | no
delivered              | its key                      | session_created | -                                      | yes
delivered              | a heartbeat                  | session_created | -                                      | no
delivered              | nobody's key                 | session_created | -                                      | yes
refused                | its key                      | session_created | -                                      | yes
held_up                | its key                      | session_created | -                                      | yes
held_up                | 429                          | session_created | -                                      | yes
held_up                | 401                          | session_created | -                                      | yes
answered               | plain                        | session_created | -                                      | yes
stop_requested         | plain                        | session_created | -                                      | yes
pretrain_routine_end   | plenty                       | timing          | -                                      | yes
abort                  | plenty                       | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | plenty                       | session_created | held                                   | no
predict_start          | plenty                       | session_created | held                                   | no
export_start           | plenty                       | session_created | held                                   | no
retry_refused          | plenty                       | session_created | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | session_created | held                                   | no
heartbeat_tick         | plenty                       | session_created | held                                   | no
delivered              | plenty                       | session_created | -                                      | yes
refused                | plenty                       | session_created | -                                      | yes
held_up                | plenty                       | session_created | -                                      | yes
answered               | plenty                       | session_created | -                                      | yes
stop_requested         | plenty                       | session_created | -                                      | yes
val_start              | plenty, usage on             | session_created | RecordUsage                            | yes
predict_start          | plenty, usage on             | session_created | RecordUsage                            | yes
export_start           | plenty, usage on             | session_created | RecordUsage                            | yes
heartbeat_tick         | plenty, beat due             | session_created | Heartbeat                              | no
refused                | nobody's key                 | session_created | -                                      | yes
held_up                | nobody's key                 | session_created | -                                      | yes
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
val_start              | usage off                    | timing          | held                                   | no
val_start              | usage on                     | timing          | RecordUsage                            | yes
predict_start          | usage off                    | timing          | held                                   | no
predict_start          | usage on                     | timing          | RecordUsage                            | yes
export_start           | usage off                    | timing          | held                                   | no
export_start           | usage on                     | timing          | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | timing          | SendRows                               | yes
retry_refused          | two refused                  | timing          | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | timing          | held                                   | no
tick                   | plain                        | timing          | held                                   | no
tick                   | both due                     | timing          | held                                   | no
heartbeat_tick         | beat due                     | timing          | Heartbeat                              | no
heartbeat_tick         | never beaten                 | timing          | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | timing          | held                                   | no
heartbeat_tick         | beat clock ahead             | timing          | held                                   | no
heartbeat_tick         | beat due, one out            | timing          | held                                   | no
heartbeat_tick         | beat due, no hub             | timing          | held                                   | no
heartbeat_tick         | never beaten, no hub         | timing          | held                                   | no
delivered              | its key                      | timing          | -                                      | yes
delivered              | a heartbeat                  | timing          | -                                      | no
delivered              | nobody's key                 | timing          | -                                      | yes
refused                | its key                      | timing          | -                                      | yes
held_up                | its key                      | timing          | -                                      | yes
held_up                | 429                          | timing          | -                                      | yes
held_up                | 401                          | timing          | -                                      | yes
answered               | plain                        | timing          | -                                      | yes
stop_requested         | plain                        | timing          | -                                      | yes
train_start            | plenty                       | training        | -                                      | yes
abort                  | plenty                       | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | plenty                       | timing          | held                                   | no
predict_start          | plenty                       | timing          | held                                   | no
export_start           | plenty                       | timing          | held                                   | no
retry_refused          | plenty                       | timing          | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | timing          | held                                   | no
heartbeat_tick         | plenty                       | timing          | held                                   | no
delivered              | plenty                       | timing          | -                                      | yes
refused                | plenty                       | timing          | -                                      | yes
held_up                | plenty                       | timing          | -                                      | yes
answered               | plenty                       | timing          | -                                      | yes
stop_requested         | plenty                       | timing          | -                                      | yes
val_start              | plenty, usage on             | timing          | RecordUsage                            | yes
predict_start          | plenty, usage on             | timing          | RecordUsage                            | yes
export_start           | plenty, usage on             | timing          | RecordUsage                            | yes
heartbeat_tick         | plenty, beat due             | timing          | Heartbeat                              | no
refused                | nobody's key                 | timing          | -                                      | yes
held_up                | nobody's key                 | timing          | -                                      | yes
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
model_save             | equal                        | training        | held                                   | yes
model_save             | worse                        | training        | held                                   | yes
model_save             | no fitness                   | training        | held                                   | yes
model_save             | none kept                    | training        | KeepCheckpoint                         | yes
model_save             | none kept, worse             | training        | KeepCheckpoint                         | yes
model_save             | none kept, file due          | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | none kept, file out          | training        | KeepCheckpoint                         | yes
model_save             | none kept, choice last       | training        | KeepCheckpoint                         | yes
model_save             | none kept, choice none       | training        | held                                   | yes
model_save             | keep interval over           | training        | KeepCheckpoint                         | yes
model_save             | keep interval over, worse    | training        | KeepCheckpoint                         | yes
model_save             | keep interval over, file due | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | keep interval not over       | training        | held                                   | yes
model_save             | kept ahead of the clock      | training        | held                                   | yes
model_save             | better, file due             | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | better, file due, rows out   | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | better, file not yet         | training        | KeepCheckpoint                         | yes
model_save             | better, file out             | training        | KeepCheckpoint                         | yes
model_save             | better, file clock ahead     | training        | KeepCheckpoint                         | yes
model_save             | better, rows due             | training        | KeepCheckpoint                         | yes
model_save             | better, choice best          | training        | KeepCheckpoint                         | yes
model_save             | better, choice none          | training        | held                                   | yes
model_save             | better, torn                 | training        | held                                   | yes
model_save             | worse, file due and waits    | training        | held                                   | yes
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
val_start              | usage off                    | training        | held                                   | no
val_start              | usage on                     | training        | RecordUsage                            | yes
predict_start          | usage off                    | training        | held                                   | no
predict_start          | usage on                     | training        | RecordUsage                            | yes
export_start           | usage off                    | training        | held                                   | no
export_start           | usage on                     | training        | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
give_up                | some refused                 | illegal         | -                                      | yes
retry_refused          | some refused                 | training        | SendRows                               | yes
retry_refused          | two refused                  | training        | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | training        | held                                   | no
tick                   | plain                        | training        | held                                   | no
tick                   | nothing waits                | training        | held                                   | no
tick                   | rows due                     | training        | SendRows                               | yes
tick                   | rows due, file out           | training        | SendRows                               | yes
tick                   | rows due, rows out           | training        | held                                   | no
tick                   | rows not yet                 | training        | held                                   | no
tick                   | rows wait, clock ahead       | training        | held                                   | no
tick                   | file due                     | training        | SendCheckpoint                         | yes
tick                   | best due                     | training        | SendCheckpoint                         | yes
tick                   | file due, rows out           | training        | SendCheckpoint                         | yes
tick                   | file due, file out           | training        | held                                   | no
tick                   | file not yet                 | training        | held                                   | no
tick                   | file waits, clock ahead      | training        | held                                   | no
tick                   | both due                     | training        | SendRows, SendCheckpoint               | yes
tick                   | both wait                    | training        | held                                   | no
tick                   | both wait, rows due          | training        | SendRows                               | yes
tick                   | both wait, file due          | training        | SendCheckpoint                         | yes
tick                   | both due, rows out           | training        | SendCheckpoint                         | yes
tick                   | both due, file out           | training        | SendRows                               | yes
tick                   | both due, both out           | training        | held                                   | no
heartbeat_tick         | beat due                     | training        | Heartbeat                              | no
heartbeat_tick         | never beaten                 | training        | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | training        | held                                   | no
heartbeat_tick         | beat clock ahead             | training        | held                                   | no
heartbeat_tick         | beat due, one out            | training        | held                                   | no
heartbeat_tick         | beat due, no hub             | training        | held                                   | no
heartbeat_tick         | never beaten, no hub         | training        | held                                   | no
delivered              | its key                      | training        | -                                      | yes
delivered              | a heartbeat                  | training        | -                                      | no
delivered              | nobody's key                 | training        | -                                      | yes
refused                | its key                      | training        | -                                      | yes
held_up                | its key                      | training        | -                                      | yes
held_up                | 429                          | training        | -                                      | yes
held_up                | 401                          | training        | -                                      | yes
answered               | plain                        | training        | -                                      | yes
stop_requested         | plain                        | training        | -                                      | yes
fit_epoch_end          | plenty                       | training        | -                                      | yes
train_batch_end        | plenty                       | training        | -                                      | yes
model_save             | plenty                       | training        | held                                   | yes
train_end              | plenty                       | finalizing      | SendRows, SendCheckpoint, CloseSession | yes
abort                  | plenty                       | aborted         | SendRows, SendCheckpoint, EndSession   | yes
val_start              | plenty                       | training        | held                                   | no
predict_start          | plenty                       | training        | held                                   | no
export_start           | plenty                       | training        | held                                   | no
retry_refused          | plenty                       | training        | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | training        | held                                   | no
heartbeat_tick         | plenty                       | training        | held                                   | no
delivered              | plenty                       | training        | -                                      | yes
refused                | plenty                       | training        | -                                      | yes
held_up                | plenty                       | training        | -                                      | yes
answered               | plenty                       | training        | -                                      | yes
stop_requested         | plenty                       | training        | -                                      | yes
val_start              | plenty, usage on             | training        | RecordUsage                            | yes
predict_start          | plenty, usage on             | training        | RecordUsage                            | yes
export_start           | plenty, usage on             | training        | RecordUsage                            | yes
heartbeat_tick         | plenty, beat due             | training        | Heartbeat                              | no
fit_epoch_end          | plenty, interval over        | training        | SendRows                               | yes
train_batch_end        | plenty, interval over        | training        | SendRows                               | yes
model_save             | plenty, better, file due     | training        | KeepCheckpoint, SendCheckpoint         | yes
model_save             | plenty, better               | training        | KeepCheckpoint                         | yes
tick                   | rows due, none kept          | training        | SendRows                               | yes
tick                   | plenty, both due             | training        | SendRows, SendCheckpoint               | yes
tick                   | plenty, rows due             | training        | SendRows                               | yes
tick                   | plenty, file due             | training        | SendCheckpoint                         | yes
refused                | nobody's key                 | training        | -                                      | yes
held_up                | nobody's key                 | training        | -                                      | yes
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
val_start              | usage off                    | finalizing      | held                                   | no
val_start              | usage on                     | finalizing      | RecordUsage                            | yes
predict_start          | usage off                    | finalizing      | held                                   | no
predict_start          | usage on                     | finalizing      | RecordUsage                            | yes
export_start           | usage off                    | finalizing      | held                                   | no
export_start           | usage on                     | finalizing      | RecordUsage                            | yes
give_up                | plain                        | aborted         | EndSession                             | yes
give_up                | some refused                 | aborted         | EndSession                             | yes
retry_refused          | some refused                 | finalizing      | SendRows                               | yes
retry_refused          | two refused                  | finalizing      | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | finalizing      | held                                   | no
tick                   | plain                        | finalizing      | held                                   | no
tick                   | both due                     | finalizing      | held                                   | no
heartbeat_tick         | beat due                     | finalizing      | Heartbeat                              | no
heartbeat_tick         | never beaten                 | finalizing      | Heartbeat                              | no
heartbeat_tick         | beat not yet                 | finalizing      | held                                   | no
heartbeat_tick         | beat clock ahead             | finalizing      | held                                   | no
heartbeat_tick         | beat due, one out            | finalizing      | held                                   | no
heartbeat_tick         | beat due, no hub             | finalizing      | held                                   | no
heartbeat_tick         | never beaten, no hub         | finalizing      | held                                   | no
delivered              | the close, nothing else      | done            | -                                      | yes
delivered              | the close, a heartbeat out   | done            | -                                      | yes
delivered              | the close, rows out          | finalizing      | -                                      | yes
delivered              | the close, a file out        | finalizing      | -                                      | yes
delivered              | the close, one refused       | finalizing      | -                                      | yes
delivered              | rows, the close out          | finalizing      | -                                      | yes
delivered              | rows, nothing else           | done            | -                                      | yes
delivered              | a file, nothing else         | done            | -                                      | yes
delivered              | not taken, nothing else      | done            | -                                      | yes
delivered              | a heartbeat                  | finalizing      | -                                      | no
delivered              | nobody's key                 | finalizing      | -                                      | yes
refused                | its key                      | finalizing      | -                                      | yes
refused                | the close                    | finalizing      | -                                      | yes
held_up                | its key                      | finalizing      | -                                      | yes
held_up                | 429                          | finalizing      | -                                      | yes
held_up                | 401                          | finalizing      | -                                      | yes
answered               | plain                        | finalizing      | -                                      | yes
stop_requested         | plain                        | finalizing      | -                                      | yes
val_start              | plenty                       | finalizing      | held                                   | no
predict_start          | plenty                       | finalizing      | held                                   | no
export_start           | plenty                       | finalizing      | held                                   | no
give_up                | plenty                       | aborted         | EndSession                             | yes
retry_refused          | plenty                       | finalizing      | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | finalizing      | held                                   | no
heartbeat_tick         | plenty                       | finalizing      | held                                   | no
delivered              | plenty                       | finalizing      | -                                      | yes
refused                | plenty                       | finalizing      | -                                      | yes
held_up                | plenty                       | finalizing      | -                                      | yes
answered               | plenty                       | finalizing      | -                                      | yes
stop_requested         | plenty                       | finalizing      | -                                      | yes
val_start              | plenty, usage on             | finalizing      | RecordUsage                            | yes
predict_start          | plenty, usage on             | finalizing      | RecordUsage                            | yes
export_start           | plenty, usage on             | finalizing      | RecordUsage                            | yes
heartbeat_tick         | plenty, beat due             | finalizing      | Heartbeat                              | no
give_up                | nothing out                  | aborted         | EndSession                             | yes
val_start              | usage on, nothing out        | finalizing      | RecordUsage                            | yes
predict_start          | usage on, nothing out        | finalizing      | RecordUsage                            | yes
export_start           | usage on, nothing out        | finalizing      | RecordUsage                            | yes
heartbeat_tick         | beat due, nothing out        | finalizing      | Heartbeat                              | no
delivered              | nothing out                  | finalizing      | -                                      | yes
refused                | nothing out                  | finalizing      | -                                      | yes
held_up                | nothing out                  | finalizing      | -                                      | yes
answered               | nothing out                  | finalizing      | -                                      | yes
stop_requested         | nothing out                  | finalizing      | -                                      | yes
delivered              | the refused close, and plenty | done            | -                                      | yes
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
val_start              | usage off                    | done            | held                                   | no
val_start              | usage on                     | done            | RecordUsage                            | yes
predict_start          | usage off                    | done            | held                                   | no
predict_start          | usage on                     | done            | RecordUsage                            | yes
export_start           | usage off                    | done            | held                                   | no
export_start           | usage on                     | done            | RecordUsage                            | yes
give_up                | plain                        | illegal         | -                                      | yes
retry_refused          | plain                        | done            | held                                   | no
tick                   | plain                        | done            | held                                   | no
tick                   | both due                     | done            | held                                   | no
heartbeat_tick         | beat due                     | done            | held                                   | no
heartbeat_tick         | never beaten                 | done            | held                                   | no
delivered              | nobody's key                 | done            | -                                      | yes
delivered              | a heartbeat                  | done            | -                                      | no
refused                | nobody's key                 | done            | -                                      | yes
held_up                | plain                        | done            | -                                      | yes
answered               | plain                        | done            | -                                      | yes
stop_requested         | plain                        | done            | -                                      | yes
val_start              | plenty                       | done            | held                                   | no
predict_start          | plenty                       | done            | held                                   | no
export_start           | plenty                       | done            | held                                   | no
retry_refused          | plenty                       | done            | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | done            | held                                   | no
heartbeat_tick         | plenty                       | done            | held                                   | no
delivered              | plenty                       | done            | -                                      | yes
refused                | plenty                       | done            | -                                      | yes
held_up                | plenty                       | done            | -                                      | yes
answered               | plenty                       | done            | -                                      | yes
stop_requested         | plenty                       | done            | -                                      | yes
val_start              | plenty, usage on             | done            | RecordUsage                            | yes
predict_start          | plenty, usage on             | done            | RecordUsage                            | yes
export_start           | plenty, usage on             | done            | RecordUsage                            | yes
retry_refused          | some refused                 | done            | SendRows                               | yes
retry_refused          | none refused                 | done            | held                                   | no
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
val_start              | usage off                    | aborted         | held                                   | no
val_start              | usage on                     | aborted         | RecordUsage                            | yes
predict_start          | usage off                    | aborted         | held                                   | no
predict_start          | usage on                     | aborted         | RecordUsage                            | yes
export_start           | usage off                    | aborted         | held                                   | no
export_start           | usage on                     | aborted         | RecordUsage                            | yes
give_up                | something waits              | aborted         | -                                      | yes
give_up                | some refused                 | aborted         | -                                      | yes
give_up                | plain                        | aborted         | held                                   | no
retry_refused          | some refused                 | aborted         | SendRows                               | yes
retry_refused          | two refused                  | aborted         | SendRows, SendCheckpoint               | yes
retry_refused          | none refused                 | aborted         | held                                   | no
tick                   | plain                        | aborted         | held                                   | no
tick                   | both due                     | aborted         | held                                   | no
heartbeat_tick         | beat due                     | aborted         | held                                   | no
heartbeat_tick         | never beaten                 | aborted         | held                                   | no
delivered              | its key                      | aborted         | -                                      | yes
delivered              | rows, nothing else           | aborted         | -                                      | yes
delivered              | the end, nothing else        | aborted         | -                                      | yes
delivered              | the close, nothing else      | aborted         | -                                      | yes
delivered              | a heartbeat                  | aborted         | -                                      | no
delivered              | nobody's key                 | aborted         | -                                      | yes
refused                | its key                      | aborted         | -                                      | yes
held_up                | its key                      | aborted         | -                                      | yes
held_up                | 429                          | aborted         | -                                      | yes
held_up                | 401                          | aborted         | -                                      | yes
answered               | plain                        | aborted         | -                                      | yes
stop_requested         | plain                        | aborted         | -                                      | yes
val_start              | plenty                       | aborted         | held                                   | no
predict_start          | plenty                       | aborted         | held                                   | no
export_start           | plenty                       | aborted         | held                                   | no
give_up                | plenty                       | aborted         | -                                      | yes
retry_refused          | plenty                       | aborted         | SendRows, SendCheckpoint               | yes
tick                   | plenty                       | aborted         | held                                   | no
heartbeat_tick         | plenty                       | aborted         | held                                   | no
delivered              | plenty                       | aborted         | -                                      | yes
refused                | plenty                       | aborted         | -                                      | yes
held_up                | plenty                       | aborted         | -                                      | yes
answered               | plenty                       | aborted         | -                                      | yes
stop_requested         | plenty                       | aborted         | -                                      | yes
val_start              | plenty, usage on             | aborted         | RecordUsage                            | yes
predict_start          | plenty, usage on             | aborted         | RecordUsage                            | yes
export_start           | plenty, usage on             | aborted         | RecordUsage                            | yes
refused                | nobody's key                 | aborted         | -                                      | yes
held_up                | nobody's key                 | aborted         | -                                      | yes
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
