"""The one package that knows pika."""
