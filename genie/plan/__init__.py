"""Planning: which images a method asks for, as requests. Nothing here imports torch.

Read `requests` (images to render, and the slots that they compete for), `levels` (the noise ratio r
and its denoising steps), `methods` (the registry of methods) and `tasks` (the input of a method).
`augmentation` has the settings of a set. `model_card` reads the card of a generator,
`known_classes` checks the classes against it, and `forecast` counts images and guided steps before
any is rendered.
"""
