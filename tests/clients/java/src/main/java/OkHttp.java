import java.util.List;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.WebSocket;
import okhttp3.WebSocketListener;

/** Square's OkHttp, of Android. It has no fragments, and pings only at an interval. */
final class OkHttp extends WebSocketListener {
    public static void main(String[] arguments) {
        Request.Builder request = new Request.Builder().url(arguments[0]);
        if (arguments.length > 1) {
            request.header("Sec-WebSocket-Protocol", arguments[1]);
        }
        new OkHttpClient().newWebSocket(request.build(), new OkHttp());
    }

    private static void obey(WebSocket socket, String command, List<byte[]> texts) {
        switch (command) {
            case "send" -> socket.send(Line.utf8(texts.get(0)));
            default -> socket.close(1000, "");
        }
    }

    @Override
    public void onOpen(WebSocket socket, Response response) {
        Line.sayOpen(response.header("Sec-WebSocket-Protocol"));
        Line.read((command, texts) -> obey(socket, command, texts));
    }

    @Override
    public void onMessage(WebSocket socket, String text) {
        Line.sayText(text);
    }

    @Override
    public void onClosing(WebSocket socket, int code, String reason) {
        Line.sayClose(code, reason);
        System.exit(0);
    }

    @Override
    public void onFailure(WebSocket socket, Throwable error, Response response) {
        Line.say("error", error);
        System.exit(0);
    }
}
