"""From demonstrations to a published policy: each stage a function. No ROS.

This is the Python API, which the commands also call: `read_recipe`; the stages `collect.collect`,
`training.train_policy`, `train_safety`, `train_world_model` and `train_success`,
`validate.validate`, `practice.practice` and `evaluate.evaluate`; `stages.run_pipeline` for all
stages in order, and `sweep.run_sweep` for methods by training seeds. See examples/.
"""
