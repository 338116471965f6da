"""The plan of a set: the images of a method, as requests. Nothing here imports torch.

Read `requests` (an image to render; a slot, which one image fills), `levels` (the noise ratio r and
its denoising steps), `methods` (the registry of methods) and `tasks` (what a method plans for).
`augmentation` has the settings of a set. `model_card` reads the card of a generator,
`known_classes` checks the classes against it, and `forecast` counts images and guided steps before
any is rendered.
"""
