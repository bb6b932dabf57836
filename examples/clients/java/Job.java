import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeoutException;
import org.msgpack.core.MessagePack;
import org.msgpack.core.MessagePackException;
import org.msgpack.value.Value;
import org.msgpack.value.ValueFactory;

/** One request, until its final event. */
final class Job {
  private static final Set<String> FINAL = Set.of("done", "failed", "cancelled", "rejected");
  /** Without news the coordinator is asked: events sent while a client is away are lost. */
  private static final long SILENCE_MS = 5_000;
  /** Answers without the job that are believed in the end. */
  private static final int ASK_AT_MOST = 12;
  /** After Ctrl-C, for the end of the job. */
  private static final int PATIENCE_MS = 10_000;

  /** What is known of the job's latest event. */
  record Event(String kind, String text, Map<String, Value> progress, Map<String, Value> assembled) {}

  private final ConnectionFactory factory;
  private final Map<String, Object> request;
  private final String name;
  private final long timeoutS;
  private volatile long giveUpAt;
  private volatile boolean mustCancel;
  private boolean cancelled;
  private boolean published;
  private int unknown;
  private int asked;

  Job(ConnectionFactory factory, Map<String, Object> request, long timeoutS) {
    this.factory = factory;
    this.request = request;
    this.name = (String) request.get("job");
    this.timeoutS = timeoutS;
    this.giveUpAt = System.currentTimeMillis() + timeoutS * 1000;
  }

  /** Publishes, says what happens, and returns the final event. Connects again as often as it takes. */
  Event finish() throws InterruptedException {
    boolean connected = false;
    for (int attempts = 0; ; attempts++) {
      checkTime();
      try (Link link = new Link(factory, name)) {
        connected = true;
        attempts = 0;
        if (published) {
          ask(link); // what was said in the meantime is lost
        } else {
          publish(link);
        }
        return untilFinal(link);
      } catch (IOException | TimeoutException | ShutdownSignalException error) {
        // What is wrong with a first connection hardly mends itself.
        if (!connected || isRefusal(error)) {
          throw new Problem(2, "cannot use the broker: " + Text.cause(error));
        }
        String why = Text.printable(Text.cause(error));
        System.err.println(name + ": connection lost (" + why + "), connecting again");
        long most = Math.min(5_000, 250L << Math.min(attempts, 10));
        Thread.sleep(ThreadLocalRandom.current().nextLong(most / 2, most)); // not with all others at once
      }
    }
  }

  /** Its id. */
  String name() {
    return name;
  }

  /** Whether {@link #cancel} was called. */
  boolean interrupted() {
    return mustCancel;
  }

  /** Ctrl-C: the job is cancelled, and its end awaited for some seconds. */
  void cancel() {
    giveUpAt = Math.min(giveUpAt, System.currentTimeMillis() + PATIENCE_MS);
    mustCancel = true;
  }

  /** Where the connection breaks before the confirm, it is done again: the same request is the same job. */
  private void publish(Link link) throws IOException, TimeoutException, InterruptedException {
    if (mustCancel) {
      throw new Problem(130, "interrupted before the request was sent");
    }
    link.publish(request, name, null);
    published = true;
    System.out.println(name + ": published");
  }

  private Event untilFinal(Link link) throws IOException, TimeoutException, InterruptedException {
    cancelled = false;
    for (long silentSince = System.currentTimeMillis(); ; ) {
      if (mustCancel && !cancelled) {
        link.publish(Messages.message("cancel", "job", name), name, null);
        cancelled = true;
      }
      checkTime();
      Link.Arrived arrived = link.next(250); // a look at the clock, and at Ctrl-C, now and then
      if (arrived == null) {
        if (System.currentTimeMillis() - silentSince >= SILENCE_MS) {
          ask(link);
          silentSince = System.currentTimeMillis();
        }
        continue;
      }
      silentSince = System.currentTimeMillis();
      Event event = read(arrived);
      if (event != null) {
        System.out.println(line(name, event));
        if (FINAL.contains(event.kind)) {
          return event;
        }
      }
    }
  }

  private void ask(Link link) throws IOException, TimeoutException, InterruptedException {
    link.publish(Messages.message("query", "job", name), name + "/" + ++asked, 60_000);
  }

  /** What a message says about this job; null if nothing. */
  private Event read(Link.Arrived arrived) {
    Map<String, Value> message;
    try (var unpacker = MessagePack.newDefaultUnpacker(arrived.body())) {
      message = Messages.map(unpacker.unpackValue());
    } catch (IOException | MessagePackException error) {
      String why = Text.printable(Text.cause(error));
      System.err.println(name + ": skipped a message that cannot be read (" + why + ")");
      return null;
    }
    Value version = message.get("version");
    if (version == null || !version.equals(ValueFactory.newInteger(Messages.VERSION))) {
      throw new Problem(1, "the mesh speaks version " + version + ", not " + Messages.VERSION);
    }
    String type = Messages.text(message, "type");
    if (type.equals("snapshot")) {
      return fromSnapshot(message);
    }
    if (!type.equals("job-event")) {
      return null;
    }
    String kind = Messages.text(message, "kind");
    boolean mine = Messages.text(message, "job").equals(name);
    boolean refused = kind.equals("rejected") && name.equals(arrived.correlationId());
    if (!mine && !refused) {
      return null;
    }
    Map<String, Value> progress = Messages.map(message.get("progress"));
    return new Event(kind, Messages.text(message, "text"), progress, Messages.map(message.get("assembled")));
  }

  /** A snapshot says what the latest event would have said, also the final one. */
  private Event fromSnapshot(Map<String, Value> snapshot) {
    Value jobs = snapshot.get("jobs");
    List<Value> listed = jobs != null && jobs.isArrayValue() ? jobs.asArrayValue().list() : List.of();
    for (Value each : listed) {
      Map<String, Value> progress = Messages.map(each);
      if (Messages.text(progress, "job").equals(name)) {
        unknown = 0;
        String phase = Messages.text(progress, "phase");
        String kind = FINAL.contains(phase) ? phase : "progress";
        String error = Messages.text(progress, "error");
        String text = error.isEmpty() ? Messages.text(progress, "waiting") : error;
        return new Event(kind, text, progress, Messages.map(snapshot.get("assembled")));
      }
    }
    String rejected = Messages.text(snapshot, "rejected");
    if (!rejected.isEmpty()) {
      return new Event("rejected", rejected, Map.of(), Map.of());
    }
    if (++unknown >= ASK_AT_MOST) {
      throw new Problem(1, "the mesh does not know the job any more");
    }
    return null;
  }

  private void checkTime() {
    if (System.currentTimeMillis() < giveUpAt) {
      return;
    }
    if (mustCancel) {
      throw new Problem(130, "interrupted; the job may not have heard of it");
    }
    throw new Problem(1, "nothing final within " + timeoutS + " s; the job, if accepted, goes on");
  }

  /** Whether the broker has said no: it will say so again. */
  private static boolean isRefusal(Throwable error) {
    for (Throwable each = error; each != null; each = each.getCause()) {
      if (each instanceof AuthenticationFailureException) {
        return true;
      }
      if (each instanceof ShutdownSignalException signal) {
        if (signal.getReason() instanceof AMQP.Channel.Close close) {
          return close.getReplyCode() == AMQP.ACCESS_REFUSED;
        }
        if (signal.getReason() instanceof AMQP.Connection.Close close) {
          return close.getReplyCode() == AMQP.ACCESS_REFUSED || close.getReplyCode() == AMQP.NOT_ALLOWED;
        }
      }
    }
    return false;
  }

  private static String line(String job, Event event) {
    String said = job + ": " + event.kind;
    if (!event.progress.isEmpty()) {
      String phase = Messages.text(event.progress, "phase");
      said += "; " + phase + ", " + event.progress.get("trials");
      said += " of " + event.progress.get("budget") + " trials";
    }
    return Text.printable(event.text.isEmpty() ? said : said + "; " + event.text);
  }
}
