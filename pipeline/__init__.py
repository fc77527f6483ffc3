"""The stages (verbs) and what they share (nouns); see the README for the map."""
