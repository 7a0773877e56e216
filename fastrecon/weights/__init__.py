"""Weights shipped with the package: safetensors with a model card each."""
