import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Address;
import com.rabbitmq.client.AddressResolver;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.ListAddressResolver;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.net.URISyntaxException;
import java.security.GeneralSecurityException;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;

/** One connection, with a queue of its own that gets everything about one job. */
final class Link implements AutoCloseable {
  private static final String CLIENTS = "tunemesh.clients";
  private static final String EVENTS = "tunemesh.events";
  /** For the broker to answer. */
  private static final int PATIENCE_MS = 10_000;

  /** The connection is gone, or of no use any more: another one may do. */
  static final class Lost extends IOException {
    Lost(String text) {
      super(text);
    }
  }

  /** A message as it came; {@code lost} in place of one says that no more will come. */
  record Arrived(byte[] body, String correlationId, Lost lost) {}

  private final String job;
  private final Connection connection;
  private final Channel channel;
  private final String user;
  /** Users of a tenant are called client.TENANT.NAME; jobs of nobody in particular have a dash. */
  private final String tenant;
  private final String queue;
  private final Set<String> returned = ConcurrentHashMap.newKeySet();
  private final BlockingQueue<Arrived> arrived = new LinkedBlockingQueue<>();

  /** Declares, binds and listens, before anything is published: earlier events would be lost. */
  Link(ConnectionFactory factory, String job) throws IOException, TimeoutException {
    this.job = job;
    user = factory.getUsername();
    String[] parts = user.split("\\.", -1);
    tenant = parts.length == 3 && parts[0].equals("client") ? parts[1] : "-";
    // A user may declare no others than these 4,096.
    queue = String.format("%s.%03x", user, ThreadLocalRandom.current().nextInt(4096));
    // By its name, not by one of its addresses: a certificate has the name.
    Address address = new Address(factory.getHost(), factory.getPort());
    AddressResolver byName = new ListAddressResolver(List.of(address));
    connection = factory.newConnection(null, byName, "publish-request " + job);
    try {
      connection.addShutdownListener(this::lose);
      channel = connection.createChannel();
      channel.addShutdownListener(this::lose);
      channel.confirmSelect();
      // A message that found no queue comes back before it is confirmed.
      channel.addReturnListener(
          (code, text, exchange, key, properties, body) -> returned.add(properties.getMessageId()));
      // Exclusive: it is gone with the connection. So every connection declares one, and binds it.
      channel.queueDeclare(queue, false, true, false, null);
      channel.queueBind(queue, EVENTS, "job." + tenant + "." + job + ".*");
      channel.basicConsume(
          queue,
          true,
          new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(
                String tag, Envelope from, AMQP.BasicProperties properties, byte[] body) {
              arrived.add(new Arrived(body, properties.getCorrelationId(), null));
            }

            @Override
            public void handleCancel(String tag) {
              arrived.add(new Arrived(null, null, new Lost("the queue was deleted")));
            }
          });
    } catch (IOException | RuntimeException error) {
      close();
      throw error;
    }
  }

  /** Publishes, and waits until the broker has taken responsibility. */
  void publish(Map<String, Object> message, String correlationId, Integer expiresMs)
      throws IOException, TimeoutException, InterruptedException {
    String type = (String) message.get("type");
    String messageId = job + "/" + type + "/" + UUID.randomUUID();
    long now = System.currentTimeMillis();
    AMQP.BasicProperties properties =
        new AMQP.BasicProperties.Builder()
            .contentType("application/msgpack")
            .type(type)
            .messageId(messageId)
            .correlationId(correlationId)
            .replyTo(queue)
            .userId(user) // the broker refuses any other
            .deliveryMode(expiresMs == null ? 2 : 1)
            .expiration(expiresMs == null ? null : expiresMs.toString())
            .headers(Map.of("version", Messages.VERSION, "job", job, "sent-at-ms", now))
            .build();
    channel.basicPublish(CLIENTS, type + "." + tenant, true, properties, Messages.packed(message));
    if (!channel.waitForConfirms(PATIENCE_MS)) {
      throw new Lost("the broker does not take the message");
    }
    if (returned.remove(messageId)) {
      throw new Problem(2, "this broker is not set up for Tunemesh: no queue takes the message");
    }
  }

  /** The next message, or null after {@code limitMs} without one. */
  Arrived next(long limitMs) throws InterruptedException, Lost {
    Arrived found = arrived.poll(limitMs, TimeUnit.MILLISECONDS);
    if (found != null && found.lost != null) {
      throw found.lost;
    }
    return found;
  }

  private void lose(ShutdownSignalException signal) {
    arrived.add(new Arrived(null, null, new Lost(Text.cause(signal))));
  }

  @Override
  public void close() {
    connection.abort(PATIENCE_MS);
  }

  /** What connects to the broker of {@code url}. */
  static ConnectionFactory factory(String url) {
    ConnectionFactory factory = new ConnectionFactory();
    try {
      URI uri = new URI(url);
      if (uri.getHost() == null) {
        throw new URISyntaxException(url, "no host");
      }
      // Of amqps the library takes that everybody is to be trusted.
      factory.setUri(url.replaceFirst("^amqps:", "amqp:"));
      if (uri.getScheme().equals("amqps")) {
        factory.useSslProtocol(SSLContext.getDefault());
        factory.setSocketConfigurator(Link::checkName);
      }
    } catch (URISyntaxException | GeneralSecurityException | IllegalArgumentException error) {
      throw new Problem(2, "--broker is no URL like amqp://user:password@host:5672/tunemesh");
    }
    factory.setAutomaticRecoveryEnabled(false); // it would not ask for what was missed
    factory.setConnectionTimeout(PATIENCE_MS);
    factory.setHandshakeTimeout(PATIENCE_MS);
    factory.setRequestedHeartbeat(10);
    return factory;
  }

  /** The certificate has to be that of the host. */
  private static void checkName(Socket socket) throws IOException {
    socket.setTcpNoDelay(true);
    if (socket instanceof SSLSocket secure) {
      SSLParameters parameters = secure.getSSLParameters();
      parameters.setEndpointIdentificationAlgorithm("HTTPS");
      secure.setSSLParameters(parameters);
    }
  }
}
