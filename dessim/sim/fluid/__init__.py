"""The fluid network: flows share links at max-min fair rates."""
