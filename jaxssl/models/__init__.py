"""Model families: each a configuration, its presets and an assembly of shared layers."""
