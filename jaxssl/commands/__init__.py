"""The verbs on what is there: compare, embed, export, import, inspect, predict, verify."""
