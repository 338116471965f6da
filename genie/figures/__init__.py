"""Figures, with one module per figure; `canvas` and `fonts` contain shared code.

`analysis` draws all figures and tables of the stage `analyse`. `report` writes plots/report.html,
using `gallery` (for the images) and `curves`; the template is in `page`. No other stage uses this
package, so changing a colour does not rerun other stages.
"""
