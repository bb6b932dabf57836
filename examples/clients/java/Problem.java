/** The end, with the exit code and one line for people. */
final class Problem extends RuntimeException {
  final int code;

  Problem(int code, String text) {
    super(text);
    this.code = code;
  }
}
