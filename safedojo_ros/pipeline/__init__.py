"""From demonstrations to a published policy: each stage a function. No ROS.

The Python API, which the commands call, too: `read_recipe`, and with what a stage is asked for
`collect.collect`, `training.train_policy`, `train_safety`, `train_world_model` and `train_success`,
`validate.validate`, `practice.practice`, `evaluate.evaluate`; all of them in order are
`stages.run_pipeline`, methods by seeds `sweep.run_sweep`. See examples/.
"""
