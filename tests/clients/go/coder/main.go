// coder/websocket, which was nhooyr.io/websocket.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/coder/websocket"
	"hlchat/tests/clients/line"
)

func main() {
	url, offered := line.Arguments()
	ctx := context.Background()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: offered})
	if err != nil {
		line.Error(err)
		return
	}
	conn.SetReadLimit(1 << 20) // 32 KiB by default
	line.Open(conn.Subprotocol())
	go line.Commands(func(command string, texts [][]byte) { obey(ctx, conn, command, texts) })
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			sayEnd(err)
			return
		}
		line.Text(text)
	}
}

func obey(ctx context.Context, conn *websocket.Conn, command string, texts [][]byte) {
	switch command {
	case "send":
		conn.Write(ctx, websocket.MessageText, texts[0])
	case "fragments":
		writer, _ := conn.Writer(ctx, websocket.MessageText)
		for _, text := range texts {
			writer.Write(text)
		}
		writer.Close()
	case "ping":
		if conn.Ping(ctx) == nil {
			fmt.Println("pong")
		}
	case "close":
		conn.Close(websocket.StatusNormalClosure, "")
	}
}

func sayEnd(err error) {
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		line.Close(int(closed.Code), closed.Reason)
	} else {
		line.Error(err)
	}
}
