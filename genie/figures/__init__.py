"""Figures, one module each; `canvas` and `fonts` hold the code that they share.

`report` writes plots/report.html with `gallery` (its images) and `curves`; its template is in
`page`. Of the stages, only `analyse` uses this package, so changing a colour reruns no other stage.
"""
