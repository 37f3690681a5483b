import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;

/** The JDK's own. It hands a long message over in parts. */
final class JavaNetHttp implements WebSocket.Listener {
    private final CountDownLatch end = new CountDownLatch(1);
    private final StringBuilder message = new StringBuilder();

    public static void main(String[] arguments) throws InterruptedException {
        WebSocket.Builder builder = HttpClient.newHttpClient().newWebSocketBuilder();
        if (arguments.length > 1) {
            builder.subprotocols(arguments[1]);
        }
        JavaNetHttp listener = new JavaNetHttp();
        builder.buildAsync(URI.create(arguments[0]), listener).whenComplete((socket, error) -> {
            if (error != null) {
                Line.say("error", error);
                listener.end.countDown();
            }
        });
        listener.end.await();
        System.exit(0);
    }

    private static void obey(WebSocket socket, String command, List<byte[]> texts) {
        switch (command) {
            case "send", "fragments" -> {
                for (int i = 0; i < texts.size(); i++) {
                    socket.sendText(Line.utf8(texts.get(i)), i == texts.size() - 1).join();
                }
            }
            case "ping" -> socket.sendPing(ByteBuffer.allocate(0)).join();
            default -> socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
        }
    }

    @Override
    public void onOpen(WebSocket socket) {
        Line.sayOpen(socket.getSubprotocol());
        Line.read((command, texts) -> obey(socket, command, texts));
        socket.request(1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        message.append(part);
        if (last) {
            Line.sayText(message);
            message.setLength(0);
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onPong(WebSocket socket, ByteBuffer payload) {
        Line.say("pong");
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        Line.sayClose(code, reason);
        end.countDown();
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        Line.say("error", error);
        end.countDown();
    }
}
