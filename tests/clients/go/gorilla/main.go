// gorilla/websocket.
package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/gorilla/websocket"
	"hlchat/tests/clients/line"
)

func main() {
	url, offered := line.Arguments()
	dialer := websocket.Dialer{Subprotocols: offered}
	conn, _, err := dialer.Dial(url, nil)
	if err != nil {
		line.Error(err)
		return
	}
	line.Open(conn.Subprotocol())
	conn.SetPongHandler(func(string) error {
		fmt.Println("pong")
		return nil
	})
	go line.Commands(func(command string, texts [][]byte) { obey(conn, command, texts) })
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			sayEnd(err)
			return
		}
		line.Text(text)
	}
}

func obey(conn *websocket.Conn, command string, texts [][]byte) {
	soon := time.Now().Add(time.Second)
	switch command {
	case "send":
		conn.WriteMessage(websocket.TextMessage, texts[0])
	case "ping":
		conn.WriteControl(websocket.PingMessage, nil, soon)
	case "close":
		normal := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		conn.WriteControl(websocket.CloseMessage, normal, soon)
	}
}

func sayEnd(err error) {
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		line.Close(closed.Code, closed.Text)
	} else {
		line.Error(err)
	}
}
