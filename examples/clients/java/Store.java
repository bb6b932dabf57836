import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import org.msgpack.value.Value;

/** The artifact store: a folder in which a blob lies under its SHA-256. */
final class Store {
  /** Bytes up to which a model travels inside the request. */
  private static final int INLINE_LIMIT = 65_536;
  /** A network file system shows a new file up to some seconds late. */
  private static final int[] LATE_FILE_MS = {0, 100, 400, 1_500};

  private Store() {}

  /** The part of the store that belongs to the tenant of a user. */
  static Path own(Path store, String user) {
    String[] parts = user.split("\\.", -1);
    boolean ofTenant = parts.length == 3 && parts[0].equals("client");
    return store != null && ofTenant ? store.resolve("tenants").resolve(parts[1]) : store;
  }

  /** Inline while small, else written into the store: whole, under another name, then renamed. */
  static Map<String, Object> toBlob(byte[] data, Path store) {
    Map<String, Object> blob = new LinkedHashMap<>(Map.of("sha256", sha256(data), "size", data.length));
    if (data.length <= INLINE_LIMIT) {
      blob.put("data", data);
      return blob;
    }
    if (store == null) {
      throw new Problem(2, "a model of " + data.length + " bytes needs the artifact store: give --artifacts");
    }
    String name = (String) blob.get("sha256");
    Path folder = store.resolve(name.substring(0, 2));
    Path partial = folder.resolve(name + "." + UUID.randomUUID() + ".partial");
    try {
      Files.createDirectories(folder); // with the rights that the umask leaves: workers have to read it
      try {
        Files.write(partial, data);
        Files.move(partial, folder.resolve(name), StandardCopyOption.ATOMIC_MOVE);
      } finally {
        Files.deleteIfExists(partial);
      }
    } catch (IOException error) {
      throw new Problem(2, "cannot write to " + store + ": " + fileError(error));
    }
    return blob;
  }

  /** The bytes, checked. */
  static byte[] fromBlob(Map<String, Value> blob, Path store) throws InterruptedException {
    String name = Messages.text(blob, "sha256");
    Value length = blob.get("size");
    if (!name.matches("[0-9a-f]{64}") || length == null || !length.isIntegerValue()) {
      throw new Problem(1, "the mesh names no artifact");
    }
    long size = length.asIntegerValue().toLong();
    Value inline = blob.get("data");
    if (inline != null && inline.isBinaryValue()) {
      byte[] data = inline.asBinaryValue().asByteArray();
      if (data.length != size || !sha256(data).equals(name)) {
        throw new Problem(1, "artifact " + name.substring(0, 12) + " is damaged");
      }
      return data;
    }
    if (store == null) {
      throw new Problem(1, "the result lies in the artifact store: give --artifacts");
    }
    Path path = store.resolve(name.substring(0, 2)).resolve(name);
    String why = "";
    for (int wait : LATE_FILE_MS) {
      Thread.sleep(wait);
      try {
        // Its size first: nobody has to read what is too large anyway.
        if (Files.size(path) == size) {
          byte[] data = Files.readAllBytes(path);
          if (data.length == size && sha256(data).equals(name)) {
            return data;
          }
        }
        why = "artifact " + name.substring(0, 12) + " in " + store + " is damaged";
      } catch (IOException error) {
        why = "cannot read the result from " + store + ": " + fileError(error);
      }
    }
    throw new Problem(1, why);
  }

  private static String sha256(byte[] data) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
    } catch (GeneralSecurityException error) {
      throw new IllegalStateException(error); // every Java has it
    }
  }

  static String fileError(IOException error) {
    return error.getClass().getSimpleName().replace("Exception", "") + " " + error.getMessage();
  }
}
