"""Training: imitation, heads. Each trainer returns its metrics as a plain dict."""
