"""Classifiers, the frozen models that they build on, and their training samples.

Start with `backbone` and `clip` (frozen models, whose vectors `features` caches) and `examples`
(images with embeddings and labels). Then read `classifier` (`fit` and `predict_proba`) and its
parts: `settings`, `heads` (on embeddings), `finetune` and `losses` (whole networks) and `files` (on
disk). `training` and `transforms` (with `fractals`) assemble the training samples of each method,
and `tasks` trains the classifiers of all tasks. `confusion` ranks source classes by confusion.
"""
