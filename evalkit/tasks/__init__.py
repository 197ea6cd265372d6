"""Tasks of lm-eval and the models that are shown to it: the only folder that imports lm_eval."""
