"""The embedded world: a Panda-shaped arm on bare MuJoCo, four tasks, scripted experts."""
