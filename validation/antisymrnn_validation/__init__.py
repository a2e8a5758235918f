"""The judge: decides the paper's claims, certifies gradients and checks any backend for conformance."""
