import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;
import java.util.function.BiConsumer;
import java.util.stream.Stream;

/** The line protocol of ../../../../library.py. */
final class Line {
    static synchronized void say(Object... words) {
        System.out.println(String.join(" ", Stream.of(words).map(Object::toString).toList()));
    }

    static void sayOpen(String subprotocol) {
        say("open", subprotocol == null || subprotocol.isEmpty() ? "-" : subprotocol);
    }

    static void sayText(CharSequence text) {
        say("text", hex(text));
    }

    static void sayClose(int code, String reason) {
        say("close", code, reason == null || reason.isEmpty() ? "-" : hex(reason));
    }

    /** Calls obey for each line, on a thread of its own. */
    static void read(BiConsumer<String, List<byte[]>> obey) {
        Thread reader = new Thread(() ->
            new BufferedReader(new InputStreamReader(System.in)).lines().forEach(line -> {
                List<String> words = List.of(line.split(" "));
                obey.accept(words.get(0),
                    words.stream().skip(1).map(HexFormat.of()::parseHex).toList());
            }));
        reader.setDaemon(true);
        reader.start();
    }

    static String utf8(byte[] text) {
        return new String(text, StandardCharsets.UTF_8);
    }

    private static String hex(CharSequence text) {
        return HexFormat.of().formatHex(text.toString().getBytes(StandardCharsets.UTF_8));
    }
}
