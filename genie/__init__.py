"""GeNIe: hard negatives by text-to-image diffusion (arXiv 2312.02548), as a library.

Modules and packages are listed in the order in which data flows through them. Each imports only
from those above it, except that `measure` does not import `generate`.

- `errors`, `tables`, `keyed`, `device`: the exception shown to the user, the schemas of all tables,
  random draws keyed by content, and the device that models run on.
- `data`: reads labelled images, draws support and query sets, names the classes, and stores the
  augmentation set on disk.
- `classify`: classifies images, with frozen backbones or fine-tuned networks; prepares their
  training examples; measures which classes are confused.
- `generate`: generates images: what each method requests, how requests are rendered and cached, and
  which noise ratio r* is chosen.
- `measure`: accuracies with confidence intervals, comparisons of runs, and the analysis of why the
  method works.
- `figures`: all figures, and the report.
- `tools`: the command line `genie` and the code that only it needs.

Functions take values and return values, or read and write files that they are given. The library
never reads params.yaml, and only `tools.cli` prints. The stages in `stages/` read params.yaml and
call the library; `stages.commands` is the entry point of the command line.
"""
