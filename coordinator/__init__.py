"""Decides: ``core`` (events in, instructions out), ``pipeline`` (what a job needs next), ``strategies`` (who
goes next), ``service`` (the AMQP shell)."""
