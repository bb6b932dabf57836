"""From a model's file to a Relax module with static shapes."""
