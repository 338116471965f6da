"""Classifiers, the frozen models they build on, and the samples they are trained on.

Start with `backbone` and `clip` (frozen models, whose vectors `features` caches) and `examples`
(images with embeddings and labels). Then read `classifier` (`fit` and `predict_proba`) and its
parts: `heads` (on embeddings), `finetune` and `losses` (whole networks) and `files` (on disk).
`training` and `transforms` (with `fractals`) assemble the training samples of each method.
`confusion` finds the classes that are mistaken for one another.
"""
