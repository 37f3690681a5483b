// Qt 5's QWebSocket. It fragments messages as it likes.

#include "../c/line.h"

#include <QCoreApplication>
#include <QSocketNotifier>
#include <QWebSocket>
#include <QWebSocketProtocol>
#include <unistd.h>

static void obey(QWebSocket &socket, char *line)
{
    char *rest = line;
    const QByteArray command = strsep(&rest, " ");
    if (command == "send")
        socket.sendTextMessage(QString::fromUtf8(rest, int(from_hex(rest))));
    else if (command == "ping")
        socket.ping();
    else
        socket.close();
}

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QWebSocket socket;
    setvbuf(stdin, nullptr, _IONBF, 0);
    QSocketNotifier commands(STDIN_FILENO, QSocketNotifier::Read);
    commands.setEnabled(false);
    QObject::connect(&commands, &QSocketNotifier::activated, [&] {
        char *line = read_command();
        line ? obey(socket, line) : app.quit();
        free(line);
    });
    QObject::connect(&socket, &QWebSocket::connected, [&] {
        say("open", "?"); // it does not tell which subprotocol was selected
        commands.setEnabled(true);
    });
    QObject::connect(&socket, &QWebSocket::textMessageReceived, [](const QString &text) {
        const QByteArray utf8 = text.toUtf8();
        say_hex("text", utf8.constData(), size_t(utf8.size()));
    });
    QObject::connect(&socket, &QWebSocket::pong, [] { say("pong", ""); });
    QObject::connect(&socket, QOverload<QAbstractSocket::SocketError>::of(&QWebSocket::error),
                     [&] { say("error", qPrintable(socket.errorString())); });
    QObject::connect(&socket, &QWebSocket::disconnected, [&] {
        const QByteArray reason = socket.closeReason().toUtf8();
        say_close(socket.closeCode(), reason.constData(), size_t(reason.size()));
        app.quit();
    });
    QNetworkRequest request{QUrl(argv[1])};
    if (argc > 2)
        request.setRawHeader("Sec-WebSocket-Protocol", argv[2]);
    socket.open(request);
    return app.exec();
}
