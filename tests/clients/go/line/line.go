// Package line is the line protocol of ../../library.py.
package line

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// Arguments are the URL and the subprotocols to offer.
func Arguments() (string, []string) {
	return os.Args[1], os.Args[2:]
}

// Open says that the connection is, with the subprotocol that was selected.
func Open(subprotocol string) {
	fmt.Println("open", orDash(subprotocol))
}

// Text says what was received.
func Text(text []byte) {
	fmt.Println("text", hex.EncodeToString(text))
}

// Close says how the connection ended.
func Close(code int, reason string) {
	fmt.Println("close", code, orDash(hex.EncodeToString([]byte(reason))))
}

// Error says what the library complained of.
func Error(err error) {
	fmt.Println("error", err)
}

// Commands calls obey for each line until the driver ends.
func Commands(obey func(command string, texts [][]byte)) {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		var texts [][]byte
		for _, word := range words[1:] {
			text, _ := hex.DecodeString(word)
			texts = append(texts, text)
		}
		obey(words[0], texts)
	}
}

func orDash(word string) string {
	if word == "" {
		return "-"
	}
	return word
}
