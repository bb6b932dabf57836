"""The AMQP shell around the core: deliveries in, events to the core, its instructions out."""
