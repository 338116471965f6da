"""Planning of the images that a method needs, as requests. Nothing here imports torch.

Start with `requests` (images to render, and the slots that they compete for), then read `levels`
(the noise ratio r and its denoising steps), `methods` (the registry of methods) and `tasks` (the
input to a method). `augmentation` defines the settings of a set. `model_card` reads the card of a
generator, `known_classes` checks classes against this card, and `forecast` counts images and guided
steps before rendering.
"""
