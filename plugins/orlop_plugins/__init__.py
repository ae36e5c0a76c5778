"""The plugins Orlop comes with, one package each."""
