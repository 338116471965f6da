"""Figures, one module each; `canvas` and `fonts` contain the code that they share.

`analysis` draws all figures and tables of the stage `analyse`. `report` writes plots/report.html
with `gallery` (its images) and `curves`; its template is in `page`. No other stage uses this
package, so changing a colour reruns no other stage.
"""
