"""Questions as the command line, the API and golden files state them: plain values, and changes of the cluster."""
