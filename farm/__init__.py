"""The farm: many objects from one graph, on as many machines as there are.

Ray schedules, places and starts again; here is what it does not know: graphs, resume, results.
`python -m distill3d.farm JOBS --graph GRAPH --out FOLDER`; docs/guide/farm.md.
"""
