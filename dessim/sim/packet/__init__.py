"""The packet network: ranks run gloo's code and links forward packets, for a few ranks."""
