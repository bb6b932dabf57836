import com.rabbitmq.client.ConnectionFactory;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Has a model tuned by a running mesh, and fetches it. RabbitMQ's client and msgpack-core are all it needs.
 *
 * <p>Exit codes: 0 the tuned model was written, 1 the job did not give one, 2 bad usage, or the broker cannot
 * be used, 130 Ctrl-C has cancelled the job.
 */
public final class PublishRequest {
  private static final String USAGE =
      """
      usage: java -cp "$JARS:build" PublishRequest MODEL [options]

        MODEL              an ONNX file; for --engine mock its YAML text
        --broker URL       amqp:// or amqps://user:password@host/vhost ($TUNEMESH_BROKER_URL)
        --target TARGET    as a device of the mesh serves it (native)
        --trials N         budget (256)
        --engine NAME      as the mesh serves it (metaschedule)
        --artifacts DIR    the folder of the artifact store ($TUNEMESH_ARTIFACTS)
        --out FILE         the tuned model (model.so)
        --timeout SECONDS  to wait at most (3600)
        --help""";

  /** Seconds for the job to end after Ctrl-C, and for what is left to do then. */
  private static final int LAST_S = 20;

  private static volatile int code;

  private static Map<String, String> options(String[] arguments) {
    Map<String, String> chosen = new HashMap<>();
    chosen.put("broker", System.getenv("TUNEMESH_BROKER_URL"));
    chosen.put("artifacts", System.getenv("TUNEMESH_ARTIFACTS"));
    chosen.putAll(Map.of("target", "native", "trials", "256", "engine", "metaschedule"));
    chosen.putAll(Map.of("out", "model.so", "timeout", "3600"));
    for (int at = 0; at < arguments.length; at++) {
      String argument = arguments[at];
      if (!argument.startsWith("--")) {
        if (chosen.put("model", argument) != null) {
          throw new Problem(2, "give one model; --help tells more");
        }
      } else if (!chosen.containsKey(argument.substring(2)) || argument.equals("--model")) {
        throw new Problem(2, "there is no option " + argument + "; --help tells more");
      } else if (++at == arguments.length) {
        throw new Problem(2, argument + " needs a value");
      } else {
        chosen.put(argument.substring(2), arguments[at]);
      }
    }
    if (!chosen.containsKey("model")) {
      throw new Problem(2, "give one model; --help tells more");
    }
    if (chosen.get("broker") == null) {
      throw new Problem(2, "give --broker, or set TUNEMESH_BROKER_URL");
    }
    if (chosen.get("artifacts") != null && chosen.get("artifacts").contains(":/")) {
      throw new Problem(2, "--artifacts: this example knows folders only");
    }
    for (String name : List.of("trials", "timeout")) {
      if (!chosen.get(name).matches("[1-9][0-9]{0,6}")) {
        throw new Problem(2, "--" + name + " must be a number of at least 1");
      }
    }
    return chosen;
  }

  private static void run(Map<String, String> chosen, CountDownLatch ended) throws InterruptedException {
    Path model = Path.of(chosen.get("model"));
    ConnectionFactory factory = Link.factory(chosen.get("broker"));
    Path all = chosen.get("artifacts") == null ? null : Path.of(chosen.get("artifacts"));
    Path store = Store.own(all, factory.getUsername());
    byte[] data;
    try {
      data = Files.readAllBytes(model);
    } catch (IOException error) {
      throw new Problem(2, "cannot read " + model + ": " + Store.fileError(error));
    }
    String file = model.getFileName().toString();
    String stem = file.replaceFirst("\\.[^.]*$", "").replaceAll("[^A-Za-z0-9]+", "-").replaceAll("^-|-$", "");
    String prefix = stem.isEmpty() ? "model" : stem.substring(0, Math.min(40, stem.length()));
    Map<String, Object> request =
        Messages.message(
            "request",
            "job", prefix + "-" + UUID.randomUUID().toString().substring(0, 8),
            "model", Store.toBlob(data, store),
            "target", chosen.get("target"),
            "level", Map.of("trials", Integer.valueOf(chosen.get("trials"))),
            "engines", List.of(chosen.get("engine")),
            "name", file.substring(0, Math.min(200, file.length())));
    Job job = new Job(factory, request, Long.parseLong(chosen.get("timeout")));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> interrupted(job, ended)));
    Job.Event last = job.finish();
    if (!last.kind().equals("done")) {
      int code = last.kind().equals("cancelled") && job.interrupted() ? 130 : 1;
      String why = last.text().isEmpty() ? "no reason given" : last.text();
      throw new Problem(code, "job " + job.name() + " " + last.kind() + ": " + why);
    }
    byte[] tuned = Store.fromBlob(Messages.map(last.assembled().get("tuned")), store);
    try {
      Files.write(Path.of(chosen.get("out")), tuned);
    } catch (IOException error) {
      throw new Problem(1, "cannot write " + chosen.get("out") + ": " + Store.fileError(error));
    }
    System.out.println(job.name() + ": wrote " + chosen.get("out") + " (" + tuned.length + " bytes)");
  }

  /** Ctrl-C begins the shutdown of the virtual machine, which waits for this. */
  private static void interrupted(Job job, CountDownLatch ended) {
    if (ended.getCount() == 0) {
      return;
    }
    System.err.println(job.name() + ": cancelling");
    job.cancel();
    try {
      if (ended.await(LAST_S, TimeUnit.SECONDS)) {
        Runtime.getRuntime().halt(code);
      }
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  /** See {@link #USAGE}. */
  public static void main(String[] arguments) throws InterruptedException {
    CountDownLatch ended = new CountDownLatch(1);
    try {
      if (List.of(arguments).contains("--help")) {
        System.out.println(USAGE);
      } else {
        run(options(arguments), ended);
      }
    } catch (Problem problem) {
      System.err.println("error: " + Text.printable(problem.getMessage()));
      code = problem.code;
    }
    System.out.flush();
    ended.countDown();
    System.exit(code);
  }
}
