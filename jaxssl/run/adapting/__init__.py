"""Continued pretraining of a run for a domain or a language: `jaxssl adapt`.

- `request`: what was asked for, and what of it the run does not allow.
- `corpus`: its token store, with the run's tokenizer or a longer one.
- `plan`: the configuration of the run that goes on, an ordinary one.
- `measures`: the losses on both domains, before and after.
"""
