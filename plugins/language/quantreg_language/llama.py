"""Llama and its relatives."""

from quantreg import Architecture, Graph

ARCHITECTURES = (Architecture("llama", "Llama, Mistral, Mixtral and models of the same shape", graph=Graph()),)
