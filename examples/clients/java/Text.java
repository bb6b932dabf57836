import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.ShutdownSignalException;

/** Lines for people. */
final class Text {
  private Text() {}

  /** Texts come from others, and go to a terminal: nothing in them may be obeyed there. */
  static String printable(String text) {
    return text.replaceAll("(?U)\\s+", " ").replaceAll("[\\p{C}\\p{Zl}\\p{Zp}]", "?");
  }

  /** The innermost cause, in one line. */
  static String cause(Throwable error) {
    Throwable inner = error;
    while (inner.getCause() != null) {
      inner = inner.getCause();
    }
    if (inner instanceof ShutdownSignalException signal) {
      if (signal.getReason() instanceof AMQP.Connection.Close close) {
        return close.getReplyText();
      }
      if (signal.getReason() instanceof AMQP.Channel.Close close) {
        return close.getReplyText();
      }
    }
    return inner.getMessage() == null ? inner.getClass().getSimpleName() : inner.getMessage();
  }
}
