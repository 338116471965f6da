"""Classifiers, the frozen models that they use, and their training samples.

Start with `backbone` and `clip` (frozen models, whose vectors `features` caches) and `examples`
(images with embeddings and labels). Then read `classifier` (`fit` and `predict_proba`) and its
parts: `settings`, `heads` (on embeddings), `finetune` and `losses` (for whole networks) and `files`
(storage on disk). `training` and `transforms` (with `fractals`) assemble the training samples of
each method, and `tasks` trains the classifiers of all tasks. `confusion` ranks source classes by
confusion.
"""
