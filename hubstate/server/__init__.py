"""The hub one owns: HUB v1 and what hubstate says beyond it, pages for people, files in one folder.

`running` starts it; `app`, `shells` and `pages` speak HTTP and do nothing else. What they call are plain functions
of the request and the time: `calls` (what a training says), `models` (what people and programs look at), over
`sessions`, `rows` and `checkpoints`, which are tables of `schema` and files of `store`. `platform` is the same for
Ultralytics' own callback, and `unoffered` refuses what the old HUB did beside. Where a session stands, `derive` tells by
the machine's decisions. `admission`, `keys` and `signing` tell who may in, `rates` how often, `terms` what is kept.
"""
