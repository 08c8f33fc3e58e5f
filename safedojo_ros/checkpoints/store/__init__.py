"""The checkpoint store on disk: publish, resolve, keep."""
