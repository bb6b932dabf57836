import java.io.IOException;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.msgpack.core.MessageBufferPacker;
import org.msgpack.core.MessagePack;
import org.msgpack.core.MessagePacker;
import org.msgpack.value.Value;

/** Messages of the mesh: MessagePack maps. */
final class Messages {
  static final int VERSION = 1;

  private Messages() {}

  static Map<String, Object> message(String type, Object... fields) {
    Map<String, Object> made = new LinkedHashMap<>();
    made.put("type", type);
    made.put("version", VERSION);
    for (int at = 0; at < fields.length; at += 2) {
      made.put((String) fields[at], fields[at + 1]);
    }
    return made;
  }

  static byte[] packed(Map<String, Object> message) throws IOException {
    try (MessageBufferPacker packer = MessagePack.newDefaultBufferPacker()) {
      pack(packer, message);
      return packer.toByteArray();
    }
  }

  private static void pack(MessagePacker packer, Object value) throws IOException {
    if (value instanceof String text) {
      packer.packString(text);
    } else if (value instanceof Integer number) {
      packer.packInt(number);
    } else if (value instanceof byte[] bytes) {
      packer.packBinaryHeader(bytes.length).writePayload(bytes);
    } else if (value instanceof List<?> list) {
      packer.packArrayHeader(list.size());
      for (Object each : list) {
        pack(packer, each);
      }
    } else if (value instanceof Map<?, ?> map) {
      packer.packMapHeader(map.size());
      for (var each : map.entrySet()) {
        pack(packer, each.getKey());
        pack(packer, each.getValue());
      }
    } else {
      throw new IllegalArgumentException("no MessagePack for " + value);
    }
  }

  /** The fields of a map; of nothing, and of what is no map, none. */
  static Map<String, Value> map(Value value) {
    Map<String, Value> found = new HashMap<>();
    if (value != null && value.isMapValue()) {
      value.asMapValue().map().forEach((key, each) -> found.put(key.toString(), each));
    }
    return found;
  }

  static String text(Map<String, Value> fields, String name) {
    Value found = fields.get(name);
    return found != null && found.isStringValue() ? found.asStringValue().asString() : "";
  }
}
