import java.net.URI;
import java.nio.ByteBuffer;
import java.util.List;
import org.java_websocket.WebSocket;
import org.java_websocket.client.WebSocketClient;
import org.java_websocket.drafts.Draft_6455;
import org.java_websocket.enums.Opcode;
import org.java_websocket.framing.Framedata;
import org.java_websocket.handshake.ServerHandshake;
import org.java_websocket.protocols.Protocol;

/** TooTallNate's Java-WebSocket, which many of Android's games use. */
final class JavaWebSocket extends WebSocketClient {
    private JavaWebSocket(URI uri, Draft_6455 draft) {
        super(uri, draft);
    }

    public static void main(String[] arguments) {
        Draft_6455 draft = arguments.length == 1 ? new Draft_6455()
            : new Draft_6455(List.of(), List.of(new Protocol(arguments[1])));
        new JavaWebSocket(URI.create(arguments[0]), draft).connect();
    }

    private void obey(String command, List<byte[]> texts) {
        switch (command) {
            case "send" -> send(Line.utf8(texts.get(0)));
            case "fragments" -> {
                for (int i = 0; i < texts.size(); i++) {
                    sendFragmentedFrame(Opcode.TEXT, ByteBuffer.wrap(texts.get(i)),
                        i == texts.size() - 1);
                }
            }
            case "ping" -> sendPing();
            default -> close();
        }
    }

    @Override
    public void onOpen(ServerHandshake handshake) {
        Line.sayOpen(handshake.getFieldValue("Sec-WebSocket-Protocol"));
        Line.read(this::obey);
    }

    @Override
    public void onMessage(String text) {
        Line.sayText(text);
    }

    @Override
    public void onWebsocketPong(WebSocket connection, Framedata frame) {
        Line.say("pong");
    }

    @Override
    public void onClose(int code, String reason, boolean remote) {
        Line.sayClose(code, reason);
    }

    @Override
    public void onError(Exception error) {
        Line.say("error", error);
    }
}
