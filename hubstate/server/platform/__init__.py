"""What Ultralytics' own Platform callback says to a hub, and what it is told. Plain functions of the request and the time.

A run is an attempt: its `runId` is the attempt's number, so a row belongs to (model, run, epoch). The callback tries most
of what it says once, and is silenced for good by a 401: what can be understood is taken with 2xx, and what cannot is shown
on the session's page. It says nothing at all when a training crashes, so silence stays silence.

A file comes in three steps: an address is asked for, the bytes are put there, and an event says that they count. Only
then do they take the place of the file before them.
"""
