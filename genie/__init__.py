"""GeNIe: hard negatives by text-to-image diffusion (arXiv 2312.02548), as a library."""
