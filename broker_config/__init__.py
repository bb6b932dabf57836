"""What RabbitMQ is told: topology, roles and rights, configuration, and the private node."""
