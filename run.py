"""Train MiniCLIP: `python run.py optimizer=sam optimizer.rho=0.05`. See README.md."""

from miniclip.stop_signals import stop_signals

if __name__ == "__main__":
    stop_signals.take_over()  # before imports that take long
    from miniclip.commands.train import train

    train()
