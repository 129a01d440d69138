"""First values of parameters."""

import jax

bert_normal = jax.nn.initializers.truncated_normal(stddev=0.02)  # BERT's, for the transformer and its heads
he_normal_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015
