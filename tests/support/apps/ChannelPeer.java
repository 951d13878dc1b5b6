import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

/**
 * An unmodified server of Java's channels and selectors, as frameworks use them: it tells each client who it seems to be,
 * then echoes.
 *
 * <p>Usage: ChannelPeer listen PORT, or ChannelPeer connect HOST PORT, which tells who is at the other end.
 */
public final class ChannelPeer {
    public static void main(String[] words) throws IOException {
        if (words[0].equals("listen")) {
            listen(Integer.parseInt(words[1]));
        } else {
            InetSocketAddress to = new InetSocketAddress(words[1], Integer.parseInt(words[2]));
            try (SocketChannel channel = SocketChannel.open(to)) {
                System.out.println(channel.getRemoteAddress());
            }
        }
    }

    private static void listen(int port) throws IOException {
        try (Selector selector = Selector.open();
                ServerSocketChannel server = ServerSocketChannel.open()) {
            server.bind(new InetSocketAddress(port));
            server.configureBlocking(false);
            server.register(selector, SelectionKey.OP_ACCEPT);
            System.out.println("listening");
            while (true) {
                selector.select(key -> handle(key, server));
            }
        }
    }

    private static void handle(SelectionKey key, ServerSocketChannel server) {
        try {
            if (key.isAcceptable()) {
                accept(server.accept(), key.selector());
            } else {
                echo(key);
            }
        } catch (IOException error) {
            System.out.println("lost " + error);
            key.cancel();
            close(key);
        }
    }

    private static void accept(SocketChannel channel, Selector selector) throws IOException {
        System.out.println("accepted " + channel.getRemoteAddress());
        channel.configureBlocking(false);
        ByteBuffer greeting = ByteBuffer.allocate(65536);
        greeting.put((channel.getRemoteAddress() + "\n").getBytes(StandardCharsets.US_ASCII));
        channel.register(selector, SelectionKey.OP_READ | SelectionKey.OP_WRITE, greeting);
    }

    /** Whatever is in the buffer is still to be written. */
    private static void echo(SelectionKey key) throws IOException {
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        boolean ended = key.isReadable() && channel.read(buffer) < 0;
        buffer.flip();
        channel.write(buffer);
        buffer.compact();
        if (ended && buffer.position() == 0) {
            channel.close();
            return;
        }
        int write = buffer.position() > 0 ? SelectionKey.OP_WRITE : 0;
        int read = buffer.hasRemaining() ? SelectionKey.OP_READ : 0;
        key.interestOps(read | write);
    }

    private static void close(SelectionKey key) {
        try {
            key.channel().close();
        } catch (IOException error) {
            System.out.println("not closed: " + error);
        }
    }
}
